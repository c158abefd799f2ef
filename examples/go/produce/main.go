// Sends lead changes in JSON with franz-go: go run ./produce
//
// Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC (crm.lead-changes by default). Prints one line for each record:
// "lead id<tab>what was sent".
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Lead is the state after a change. What is unknown is left out.
type Lead struct {
	CreatedAt       time.Time          `json:"created_at"`
	LeadScore       *float64           `json:"lead_score,omitempty"`
	TouchpointCount *int32             `json:"touchpoint_count,omitempty"`
	Status          string             `json:"status,omitempty"`
	Numbers         map[string]float64 `json:"numbers,omitempty"` // fields of this CRM's own
	Categories      map[string]string  `json:"categories,omitempty"`
}

// Change is one that was committed to the CRM. One that is sent again after a failure keeps its EventID.
type Change struct {
	EventID     string    `json:"event_id"`
	LeadID      string    `json:"lead_id"`
	ChangeType  string    `json:"change_type"`
	OccurredAt  time.Time `json:"occurred_at"`
	LeadVersion int64     `json:"lead_version"`
	Lead        Lead      `json:"lead"`
}

func change(leadID, changeType string, version int64, lead Lead) Change {
	return Change{rand.Text(), leadID, changeType, time.Now().UTC(), version, lead}
}

// send writes a record under its lead's id: all changes of a lead then keep their order.
func send(client *kgo.Client, leadID string, value []byte, what string) error {
	record := &kgo.Record{
		Key:     []byte(leadID),
		Value:   value,
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}},
	}
	// A service calls Produce, and looks at the result in its callback.
	if err := client.ProduceSync(context.Background(), record).FirstErr(); err != nil {
		return err
	}
	fmt.Printf("%s\t%s\n", leadID, what)
	return nil
}

func run() error {
	topic := os.Getenv("TOPIC")
	if topic == "" {
		topic = "crm.lead-changes"
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), ",")...),
		kgo.DefaultProduceTopic(topic), // idempotent by default: a retry neither repeats a record nor changes the order
	)
	if err != nil {
		return err
	}
	defer client.Close()
	score, touchpoints := 41.5, []int32{1, 2}
	lead := Lead{
		CreatedAt:       time.Date(2026, 1, 30, 8, 15, 0, 0, time.UTC),
		LeadScore:       &score,
		TouchpointCount: &touchpoints[0],
		Status:          "new",
		Numbers:         map[string]float64{"gpa": 3.5},
		Categories:      map[string]string{"country": "FR"},
	}
	contacted := lead
	contacted.Status, contacted.TouchpointCount = "contacted", &touchpoints[1]
	for _, each := range []Change{change("ada", "CREATED", 1, lead), change("ada", "UPDATED", 2, contacted)} {
		value, err := json.Marshal(each)
		if err != nil {
			return err
		}
		if err := send(client, "ada", value, each.ChangeType); err != nil {
			return err
		}
	}
	return send(client, "eve", nil, "erased") // a null value erases a lead
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
